-- Let go of a batch. ARGV: id, claim id, ms until it is due again, or '' for when something happens to it or its time is over.
-- Answers 1, or 0 if it is another's.
local id, claim, delay = ARGV[1], ARGV[2], ARGV[3]
local known = redis.call('HMGET', batch_key(id), 'claim', 'wake', 'expires_at', 'window')
if known[1] ~= claim then return 0 end
local at = now()
local due = delay ~= '' and at + delay or (known[2] and at or tonumber(known[3]))
redis.call('HDEL', batch_key(id), 'claim', 'wake')
-- It is fed again when half of its jobs have ended: of its window, or of as many as there was room for.
local alive, half = redis.call('ZCARD', batch_key(id) .. ':alive'), tonumber(known[4]) / 2
redis.call('HSET', batch_key(id), 'low', math.floor(alive > half and half or alive / 2))
redis.call('ZADD', key('batch-due'), due, id)
return 1
