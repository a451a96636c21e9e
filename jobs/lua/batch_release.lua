-- Let go of a batch. ARGV: id, claim id, ms until it is due again, or '' for when something happens to it or its time is over.
-- Answers 1, or 0 if it is another's.
local id, claim, delay = ARGV[1], ARGV[2], ARGV[3]
local known = redis.call('HMGET', batch_key(id), 'claim', 'wake', 'expires_at')
if known[1] ~= claim then return 0 end
local at = now()
local due = delay ~= '' and at + delay or (known[2] and at or tonumber(known[3]))
redis.call('HDEL', batch_key(id), 'claim', 'wake')
redis.call('ZADD', key('batch-due'), due, id)
return 1
