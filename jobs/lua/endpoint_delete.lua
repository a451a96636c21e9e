-- Remove a webhook endpoint. ARGV: id, owner. What was to be sent to it ends as failed. Answers 1, or 0 if the owner has none.
local id, owner = ARGV[1], ARGV[2]
if redis.call('HGET', endpoint_key(id), 'owner') ~= owner then return 0 end
unsubscribe(owner, id)
redis.call('ZREM', key('webhook-endpoints:' .. owner), id)
redis.call('DEL', endpoint_key(id))
return 1
