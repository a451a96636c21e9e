-- Remove a job and all that points to it; a running call of it is aborted. ARGV: id, owner. Answers 1, or 0 if the owner
-- has no such job. A line of a batch is the batch's.
local id, owner = ARGV[1], ARGV[2]
local job = load(id)
if not job or job.owner ~= owner or job.batch or job.kind == UNSTORED then return 0 end
if job.status == 'in_progress' then redis.call('PUBLISH', ABORTS_CHANNEL, id) end
leave_all(job)
redis.call('ZREM', leaf(job, job.status), id)
unbury(job)
redis.call('ZREM', key('expiring'), purge_member(job))
if job.idem then redis.call('DEL', job.idem) end
redis.call('DEL', job_key(id))
drop_stream(id)
redis.call('PUBLISH', EVENTS_CHANNEL, id .. ' deleted')
wake_followers(id)
return 1
