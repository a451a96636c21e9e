-- Which job an Idempotency-Key has made: what `create` answers for it, for a Redis that is too full to be asked to make one.
-- ARGV: the key's record, fingerprint. Answers {known, id}, {conflict, id} or {absent}.
local known = redis.call('HMGET', ARGV[1], 'id', 'fingerprint')
if not known[1] or redis.call('EXISTS', job_key(known[1])) == 0 then return {'absent'} end
if known[2] ~= ARGV[2] then return {'conflict', known[1]} end
redis.call('HSET', ARGV[1], 'id', known[1])  -- for WAITAOF, see create.lua
return {'known', known[1]}
