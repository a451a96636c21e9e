-- All lines of a batch stand in its parts: its files are being put together. ARGV: id, claim id, lease in ms.
-- Answers {fenced}, {unfinished}, or {done, the parts' names…}.
local id, claim = ARGV[1], ARGV[2]
local record = batch_key(id)
if not hold_batch(id, claim, tonumber(ARGV[3])) then return {'fenced'} end
local known = redis.call('HMGET', record, 'status', 'fed', 'total')
if known[2] ~= known[3] or redis.call('ZCARD', record .. ':alive') > 0 or redis.call('ZCARD', record .. ':ended') > 0 then
  return {'unfinished'}
end
if known[1] == 'in_progress' then redis.call('HSET', record, 'status', 'finalizing', 'finalizing_at', now()) end
return {'done', unpack(redis.call('LRANGE', record .. ':parts', 0, -1))}
