-- Make deliveries due whose next try is, or whose worker is gone, since their lease ran out. ARGV: limit, ttl in ms.
-- Answers {how many were due, how many had lost their worker}.
local limit, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = now()
local function move(set)
  local ids = redis.call('ZRANGEBYSCORE', key(set), '-inf', at, 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    local delivery = load_delivery(id)
    if not delivery then
      redis.call('ZREM', key(set), id)
    else
      local host = host_now(delivery)
      if host then
        leave_outbox(delivery, at)
        delivery.host = host
        make_due(delivery, at)
      else
        redis.call('HSET', delivery_key(id), 'error', 'endpoint_deleted')
        end_delivery(delivery, 'failed', at, ttl)
      end
    end
  end
  return #ids
end
-- Hosts whose slowness is forgotten are in line with the others again.
for _, host in ipairs(redis.call('ZRANGEBYSCORE', key('webhook-slow'), '-inf', at)) do
  redis.call('ZREM', key('webhook-slow'), host)
  if redis.call('ZREM', key('webhook-turns:slow'), host) == 1 then give_turn(host, at) end
end
return {move('webhook-scheduled'), move('webhook-leases')}
