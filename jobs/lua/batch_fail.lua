-- End a batch whose file cannot be used; one that was cancelled, or whose time was over, ends as that. ARGV: id, claim id,
-- errors (JSON), ttl in ms. Answers done or fenced.
local id, claim, errors, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local known = redis.call('HMGET', batch_key(id), 'status', 'claim', 'ending')
local status = known[3] or 'failed'
if known[1] == status then return 'done' end  -- a replay after a lost reply
if known[2] ~= claim then return 'fenced' end
end_batch(id, status, {'errors', errors}, now(), ttl)
return 'done'
