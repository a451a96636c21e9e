-- End a batch whose file cannot be used. ARGV: id, claim id, errors (JSON), ttl in ms. Answers done or fenced.
local id, claim, errors, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('HGET', batch_key(id), 'status') == 'failed' then return 'done' end  -- a replay after a lost reply
if redis.call('HGET', batch_key(id), 'claim') ~= claim then return 'fenced' end
end_batch(id, 'failed', {'errors', errors}, now(), ttl)
return 'done'
