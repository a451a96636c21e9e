-- What an Idempotency-Key has made: what `create` or `batch_create` answers for it, for a Redis that is too full to be asked to
-- make one. ARGV: the key's record, fingerprint, job or batch. Answers {known, id}, {conflict, id} or {absent}.
local known, record = redis.call('HMGET', ARGV[1], 'id', 'fingerprint'), ARGV[3] == 'batch' and batch_key or job_key
if not known[1] or redis.call('EXISTS', record(known[1])) == 0 then return {'absent'} end
if known[2] ~= ARGV[2] then return {'conflict', known[1]} end
redis.call('HSET', ARGV[1], 'id', known[1])  -- for WAITAOF, see create.lua
return {'known', known[1]}
