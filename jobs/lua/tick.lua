-- Note that a scheduler is at work. ARGV: how much of the time since the last tick the caller was idle of its own will (ms),
-- a lease (ms). What is not explained by that was an outage: workers live, but could not renew. They get one lease, and all
-- schedulers keep to it. Answers {the unexplained ms, 1 if lost leases may be recovered now}.
local idle, lease = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = now()
local last = tonumber(redis.call('SET', key('tick'), at, 'GET') or at)
local gap = math.max(0, at - last - idle)
if gap > lease / 3 then redis.call('SET', key('hold'), 1, 'PX', lease) end
return {gap, 1 - redis.call('EXISTS', key('hold'))}
