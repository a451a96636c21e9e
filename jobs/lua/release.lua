-- Give a running job back to the head of its queue, with no attempt counted. ARGV: mode, id, claim id, message, ttl in ms.
-- Mode 'handback': by its own worker, whose claim id must match. Mode 'recover': by the scheduler, if its lease ran out.
-- A job whose worker died under it for the third time is ended: it may be what kills them.
-- Answers done, or gone, ended, fenced, alive, crashed.
local mode, id, claim, message, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local job = load(id)
if not job then
  redis.call('ZREM', key('leases'), id)
  return 'gone'
end
if TERMINAL[job.status] then return 'ended' end
if job.status ~= 'in_progress' then return 'fenced' end
local at = now()
if mode == 'handback' then
  if job.claim ~= claim then return 'fenced' end
  -- Its worker has let go: no late result, and no renewal that was on its way, counts any more.
  redis.call('HDEL', job_key(id), 'claim')
  redis.call('HINCRBY', job_key(id), 'hand_backs', 1)
  break_stream(job, 'worker_stopped')
else
  local expires = redis.call('ZSCORE', key('leases'), id)
  if expires and tonumber(expires) > at then return 'alive' end
  if redis.call('HINCRBY', job_key(id), 'strikes', 1) >= MAX_STRIKES then
    finish(job, 'failed', {'error', CRASHED_ERROR}, at, ttl)
    return 'crashed'
  end
  break_stream(job, CRASHED_CODE)
end
redis.call('HINCRBY', job_key(id), 'attempt', -1)
redis.call('ZREM', key('leases'), id)
set_status(job, 'queued')
enqueue(job, message, at, true)
return 'done'
