-- Move a job whose retry is due into its queue. ARGV: id, message. Answers 1 if it was moved.
local id, message = ARGV[1], ARGV[2]
local due = redis.call('ZSCORE', key('scheduled'), id)
local at = now()
if not due or tonumber(due) > at then return 0 end
redis.call('ZREM', key('scheduled'), id)
local job = load(id)
if not job or job.status ~= 'queued' then return 0 end
redis.call('HDEL', job_key(id), 'retry_at')
enqueue(job, message, at, false)
return 1
