-- Make a batch; or answer with the one that the Idempotency-Key names already. ARGV: id, owner, idempotency key or '',
-- fingerprint, window in ms, the input file, its content's key, then fields of the record. Refused by a full Redis.
-- The input file's content stays while a batch needs it, though its record may go. Answers {created, id, when it was made (ms)}
-- or {known | conflict | gone, id}; gone: there is no such file any more.
local id, owner, idem, fingerprint, window, input = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local made = redis.call('HGET', batch_key(id), 'created_at')
if made then return {'created', id, tonumber(made)} end  -- a replay after a lost reply
local gone = redis.call('HGET', file_key(input), 'content') ~= ARGV[7]
if idem ~= '' then
  local known = redis.call('HMGET', idem, 'id', 'fingerprint')
  if known[1] and redis.call('EXISTS', batch_key(known[1])) == 1 then
    if known[2] ~= fingerprint then return {'conflict', known[1]} end
    redis.call('HSET', idem, 'id', known[1])  -- for WAITAOF, see create.lua
    return {'known', known[1]}
  end
  if gone then return {'gone', ''} end
  redis.call('DEL', idem)
  redis.call('HSET', idem, 'id', id, 'fingerprint', fingerprint)
  redis.call('HSET', batch_key(id), 'idem', idem)
end
if gone then return {'gone', ''} end
local at = now()
redis.call('HSET', batch_key(id), 'owner', owner, 'status', 'validating', 'created_at', at, 'expires_at', at + window,
  'total', 0, 'fed', 0, 'completed', 0, 'failed', 0, 'offset', 0, 'line', 0, 'tokens', 0, 'input', input, 'content', ARGV[7], unpack(ARGV, 8))
redis.call('HINCRBY', key('file-uses'), input, 1)
redis.call('ZADD', key('garbage'), 'XX', 'GT', at + window + KEPT_BESIDES, ARGV[7])
redis.call('ZADD', PREFIX .. 'batches:' .. owner, redis.call('INCR', key('batch-seq')), id)
count_tokens(id, 1)
redis.call('ZADD', key('batch-due'), at, id)
purge(at, 4)
return {'created', id, at}
