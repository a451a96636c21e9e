-- Put a test event for one endpoint into the outbox. ARGV: id of the delivery, endpoint, owner, id of the event, its type, what
-- it is about. Answers 1, or 0 if the owner has no such endpoint. Refused by a full Redis.
local id, endpoint, owner, event, type, object = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local known = redis.call('HMGET', endpoint_key(endpoint), 'owner', 'host')
if known[1] ~= owner then return 0 end
post({id = id, owner = owner, endpoint = endpoint, host = known[2], event = event, type = type, object = object,
  test = true}, now())
return 1
