-- Send a delivery again, now, with all of its tries before it. ARGV: id, owner. One that is on its way stays as it is.
-- Answers done, or gone, deleted (its endpoint is), disabled.
local id, owner = ARGV[1], ARGV[2]
local delivery = load_delivery(id)
if not delivery or delivery.owner ~= owner then return 'gone' end
if delivery.endpoint ~= '' then
  local known = redis.call('HMGET', endpoint_key(delivery.endpoint), 'host', 'disabled')
  if not known[1] then return 'deleted' end
  if known[2] and not delivery.test then return 'disabled' end
  if delivery.state ~= 'due' and delivery.state ~= 'delivering' then delivery.fresh_host = known[1] end
end
if delivery.state == 'due' or delivery.state == 'delivering' then return 'done' end
local at = now()
if DELIVERY_ENDED[delivery.state] then
  local pending = delivery_leaves(delivery, 'pending')
  for i, leaf in ipairs(delivery_leaves(delivery, delivery.state)) do
    redis.call('ZREM', leaf, id)
    redis.call('ZREM', key('expiring'), leaf .. ' ' .. id)
    redis.call('ZADD', pending[i], delivery.seq, id)
  end
  redis.call('PERSIST', delivery_key(id))
end
leave_outbox(delivery, at)
redis.call('HDEL', delivery_key(id), 'ended', 'error')
redis.call('HSET', delivery_key(id), 'round', 0)
delivery.host = delivery.fresh_host or delivery.host
make_due(delivery, at)
return 'done'
