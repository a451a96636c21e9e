-- Write down how a try to deliver went. ARGV: id, claim id, verdict, the log of tries (JSON), delay of the next try in ms,
-- '1' or '0' if the host was slow or quick, ttl in ms, ms of failure after which an endpoint is disabled.
-- Verdicts: succeeded, retry, failed (no more tries), gone (nor ever again to this endpoint), release (nothing was tried).
-- Taken from the claim that the delivery had last, even if its lease ran out since. Answers done, or gone, ended, fenced.
local id, claim, verdict, log, delay, pace, ttl, patience =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local delivery = load_delivery(id)
if not delivery then return 'gone' end
if delivery.claim ~= claim then return DELIVERY_ENDED[delivery.state] and 'ended' or 'fenced' end
local at = now()
-- The claim is given up below, so that a replay after a lost reply changes nothing.
redis.call('HDEL', delivery_key(id), 'claim')
if verdict == 'release' then
  if delivery.state == 'delivering' then
    leave_outbox(delivery, at)
    make_due(delivery, at)
  end
  return 'done'
end

redis.call('HSET', delivery_key(id), 'tries', log)
redis.call('HINCRBY', delivery_key(id), 'round', 1)
note_pace(delivery.host, pace == '1', at)
local endpoint = delivery.endpoint ~= '' and not delivery.test
  and redis.call('EXISTS', endpoint_key(delivery.endpoint)) == 1 and delivery.endpoint
if verdict == 'succeeded' then
  if endpoint then redis.call('HDEL', endpoint_key(endpoint), 'failing_since') end
  end_delivery(delivery, 'succeeded', at, ttl)
  return 'done'
end
if endpoint then
  redis.call('HSETNX', endpoint_key(endpoint), 'failing_since', at)
  local since = tonumber(redis.call('HGET', endpoint_key(endpoint), 'failing_since'))
  if verdict == 'gone' then
    disable(delivery.owner, endpoint, 'gone', at)
  elseif at - since >= patience then
    disable(delivery.owner, endpoint, 'failing', at)
  end
end
if verdict == 'retry' then
  schedule_delivery(delivery, at + delay, at)
else
  end_delivery(delivery, 'failed', at, ttl)
end
return 'done'
