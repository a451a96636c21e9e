-- Note that an attempt failed and plan the next one. ARGV: id, claim id, the attempt's number, the log of attempts (JSON),
-- delay in ms, slot ('keep' or 'free'), why it failed (a code, for those who follow its stream). With 'keep' the claim stays
-- and the next attempt begins at once; with 'free' the job goes to `scheduled`, out of the backlog, until it is due.
-- Answers done, gone, ended or fenced.
local id, claim, attempt, log, delay, slot = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), ARGV[6]
local job = load(id)
if not job then return 'gone' end
if TERMINAL[job.status] then return 'ended' end
-- A replay after a lost reply: the claim is gone by then.
if slot == 'free' and redis.call('ZSCORE', key('scheduled'), id) then return 'done' end
if job.claim ~= claim then return 'fenced' end
if slot == 'keep' then
  if job.status ~= 'in_progress' then return 'fenced' end
  if tonumber(job.attempt) == attempt then  -- else a replay after a lost reply
    break_stream(job, ARGV[7])
    redis.call('HSET', job_key(id), 'attempt', attempt + 1, 'attempts', log)
  end
  return 'done'
end
if job.status ~= 'in_progress' then return 'fenced' end
local due = now() + delay
break_stream(job, ARGV[7])
redis.call('HSET', job_key(id), 'attempts', log, 'retry_at', due)
-- Its worker has let go: no renewal that was on its way may take it back when it is due.
redis.call('HDEL', job_key(id), 'claim')
redis.call('ZREM', key('leases'), id)
redis.call('ZREM', key('backlog:' .. job.queue), id)
redis.call('ZADD', key('scheduled'), due, id)
set_status(job, 'queued')
return 'done'
