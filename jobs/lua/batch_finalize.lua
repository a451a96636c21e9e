-- All lines of a batch stand in its parts: its files are being put together. ARGV: id, claim id, lease in ms, how long that may
-- take (ms), and the keys in the storage under which the files are about to be written: they are reserved, also when Redis is full.
-- Answers {fenced, {}}, {unfinished, {}}, or {done, {the parts' names…}}.
local id, claim = ARGV[1], ARGV[2]
local record = batch_key(id)
if not hold_batch(id, claim, tonumber(ARGV[3])) then return {'fenced', {}} end
local known = redis.call('HMGET', record, 'status', 'fed', 'total')
if known[2] ~= known[3] or redis.call('ZCARD', record .. ':alive') > 0 or redis.call('ZCARD', record .. ':ended') > 0 then
  return {'unfinished', {}}
end
if known[1] == 'in_progress' then redis.call('HSET', record, 'status', 'finalizing', 'finalizing_at', now()) end
for i = 5, #ARGV do reserve_content(ARGV[i], now() + ARGV[4]) end
return {'done', redis.call('LRANGE', record .. ':parts', 0, -1)}
