-- End a job whose deadline has passed. ARGV: id, ttl in ms. Answers 1 if it was ended.
local id, ttl = ARGV[1], tonumber(ARGV[2])
local deadline = redis.call('ZSCORE', key('deadlines'), id)
local at = now()
if not deadline or tonumber(deadline) > at then return 0 end
local job = load(id)
if not job or TERMINAL[job.status] then
  redis.call('ZREM', key('deadlines'), id)
  return 0
end
if finish(job, 'failed', {'error', EXPIRED_ERROR}, at, ttl) then redis.call('PUBLISH', ABORTS_CHANNEL, id) end
return 1
