-- End jobs of a batch that is cancelled or whose time is over. ARGV: id, claim id, lease in ms, how many at most, their error
-- (JSON). Answers how many are left, or -1 if the batch is another's. Workers are told to abort running calls.
local id, claim, lease, limit, failure = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local record = batch_key(id)
if not hold_batch(id, claim, lease) then return -1 end
local at = now()
for _, member in ipairs(redis.call('ZRANGE', record .. ':alive', 0, limit - 1)) do
  local job = load(member)
  if not job or TERMINAL[job.status] then
    redis.call('ZREM', record .. ':alive', member)
  elseif finish(job, 'failed', {'error', failure}, at, 0) then
    redis.call('PUBLISH', ABORTS_CHANNEL, member)
  end
end
return redis.call('ZCARD', record .. ':alive')
