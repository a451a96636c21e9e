-- Write down how a try to deliver went. ARGV: id, claim id, verdict, the log of tries (JSON), delay of the next try in ms,
-- '1' or '0' if the host was slow or quick, ttl in ms, ms of failure after which an endpoint is disabled, ms without a
-- failure after which another is the first of a new row, the URL that was tried.
-- Verdicts: succeeded, retry, failed (no more tries), gone (nor ever again to this endpoint), release (nothing was tried).
-- Taken from the claim that the delivery had last, even if its lease ran out since. Answers done, or gone, ended, fenced.
local id, claim, verdict, log, delay, pace, ttl, patience, gap, url =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10]
local delivery = load_delivery(id)
if not delivery then return 'gone' end
if delivery.claim ~= claim then return DELIVERY_ENDED[delivery.state] and 'ended' or 'fenced' end
local at = now()
-- The claim is given up below, so that a replay after a lost reply changes nothing.
redis.call('HDEL', delivery_key(id), 'claim')
redis.call('HSET', delivery_key(id), 'tries', log)
if verdict == 'release' then
  if delivery.state == 'delivering' then
    leave_outbox(delivery, at)
    delivery.host = host_now(delivery) or delivery.host
    make_due(delivery, at)
  end
  return 'done'
end

redis.call('HINCRBY', delivery_key(id), 'round', 1)
note_pace(delivery.host, pace == '1', at)
local endpoint = delivery.endpoint ~= '' and not delivery.test and delivery.endpoint
local url_now = endpoint and redis.call('HGET', endpoint_key(endpoint), 'url')
-- What its endpoint's earlier URL answered says nothing of the endpoint now, and a 410 there is not the last word.
if url_now and url_now ~= url and verdict == 'gone' then verdict, delay = 'retry', 0 end
if url_now ~= url then endpoint = false end
if verdict == 'succeeded' then
  if endpoint then redis.call('HDEL', endpoint_key(endpoint), 'failing_since', 'failed_last') end
  end_delivery(delivery, 'succeeded', at, ttl)
  return 'done'
end
if endpoint then
  local failed = redis.call('HMGET', endpoint_key(endpoint), 'failing_since', 'failed_last')
  local since = failed[1] and at - tonumber(failed[2] or at) <= gap and tonumber(failed[1]) or at
  redis.call('HSET', endpoint_key(endpoint), 'failing_since', since, 'failed_last', at)
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
