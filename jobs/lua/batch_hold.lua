-- Renew the lease of a batch. ARGV: id, claim id, lease in ms. Answers {} if it is another's now, else the record's fields.
-- One whose time is over is marked as in batch_claim.
local id, claim = ARGV[1], ARGV[2]
if not hold_batch(id, claim, tonumber(ARGV[3])) then return {} end
local known = redis.call('HMGET', batch_key(id), 'expires_at', 'ending')
if not known[2] and tonumber(known[1]) <= now() then redis.call('HSET', batch_key(id), 'ending', 'expired') end
return redis.call('HGETALL', batch_key(id))
