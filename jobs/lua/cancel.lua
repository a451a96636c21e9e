-- End a job as cancelled, whatever it does now; one that has ended stays as it is. ARGV: id, owner, ttl in ms, '1' if it
-- may be one that is not stored. Answers gone (or another owner's, or a line of a batch, which is the batch's), ended, or
-- cancelled. Workers are told to abort a running call.
local id, owner, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local job = load(id)
if not job or job.owner ~= owner or job.batch then return 'gone' end
if job.kind == UNSTORED and ARGV[4] ~= '1' then return 'gone' end
if TERMINAL[job.status] then return 'ended' end
if finish(job, 'cancelled', {'cancelled', '1'}, now(), ttl) then redis.call('PUBLISH', ABORTS_CHANNEL, id) end
return 'cancelled'
