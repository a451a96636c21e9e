-- End a job with what its call brought. ARGV: id, claim id, status, ttl in ms, then fields of the record.
-- Taken if the claim id matches, or if nobody has claimed the job since (its lease ran out, and it waits again): a late
-- result is a result. Answers done, or what stood in the way: gone, ended, fenced.
local id, claim, status, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local job = load(id)
if not job then return 'gone' end
if TERMINAL[job.status] then
  if redis.call('HGET', job_key(id), 'ended_by') == claim then return 'done' end  -- a replay after a lost reply
  return 'ended'
end
if job.claim ~= claim then return 'fenced' end
-- It was given back, and its attempt with it; now it counts after all.
if job.status == 'queued' then redis.call('HINCRBY', job_key(id), 'attempt', 1) end
finish(job, status, {'ended_by', claim, unpack(ARGV, 5)}, now(), ttl)
return 'done'
