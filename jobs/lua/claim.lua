-- Give a waiting job to the claim id, which is the fencing token, under a lease. The same claim id gets the same answer.
-- ARGV: id, claim id, lease in ms, worker, ttl in ms, '1' if the claimant runs nothing else.
-- Answers {verdict, the record's fields…}; verdicts: claimed, gone,
-- held (another claim runs it), ended, expired (its deadline had passed: it was ended here), over (its batch is being ended,
-- or its time is over: it was ended here), later (it waits for a retry),
-- alone (its worker died under it before: it is for a claimant that runs nothing else, so that no neighbour pays for it),
-- newer (a later release wrote it, and one of its workers shall run it), paused (its queue is; with its enqueueing number).
local id, claim, lease, worker, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local alone = ARGV[6] == '1'
local job = load(id)
if not job then return {'gone'} end
if TERMINAL[job.status] then return {'ended'} end
if tonumber(job.v or SCHEMA_VERSION) > SCHEMA_VERSION then return {'newer'} end
local at = now()
if job.status == 'queued' then
  if not redis.call('ZSCORE', key('waiting:' .. job.queue), id) then return {'later'} end
  if job.deadline and tonumber(job.deadline) <= at then
    finish(job, 'failed', {'error', EXPIRED_ERROR}, at, ttl)
    return {'expired'}
  end
  if job.batch then
    local failure = ending_error(job.batch, at)
    if failure then
      finish(job, 'failed', {'error', failure}, at, ttl)
      return {'over'}
    end
  end
  if paused(job.queue) then return {'paused', job.queue, job.eseq} end
  if not alone and tonumber(job.strikes or 0) >= STRIKES_BEFORE_ALONE then return {'alone'} end
  if not job.head then
    local claimed = tonumber(redis.call('GET', key('claimed:' .. job.queue)) or 0)
    if tonumber(job.eseq) > claimed then redis.call('SET', key('claimed:' .. job.queue), job.eseq) end
  end
  leave_waiting(job)
  set_status(job, 'in_progress')
  redis.call('HSETNX', job_key(id), 'started', at)
  redis.call('HINCRBY', job_key(id), 'attempt', 1)
  redis.call('HSET', job_key(id), 'claim', claim, 'worker', worker, 'claimed', at)
  redis.call('ZADD', key('leases'), at + lease, id)
elseif job.claim ~= claim then
  return {'held'}
end
local answer = redis.call('HGETALL', job_key(id))
table.insert(answer, 1, 'claimed')
return answer
