-- The outbox: deliveries of webhook events. Each is a record, and is in one state and place: `due` (to be sent now; one
-- sorted set per receiving host), `delivering` (under a lease), `scheduled` (for a later try), or at its end: `succeeded`
-- or `failed`. The first two are in the backlog, so that workers are there for them.
--
-- Hosts take turns: `webhook-turns:fast` and `:slow` hold each host that has something due, by when it was served last.
-- A host at its limit of deliveries at once has no turn until one of them is over.

local function delivery_key(id) return PREFIX .. 'delivery:' .. id end
local function endpoint_key(id) return PREFIX .. 'webhook-endpoint:' .. id end
local function owner_secret_key(owner) return PREFIX .. 'webhook-secret:' .. owner end
local function due_key(host) return PREFIX .. 'webhook-due:' .. host end
local function subscribers_key(owner, type) return PREFIX .. 'webhook-subscribers:' .. owner .. ':' .. type end

local DELIVERY_FIELDS = {'owner', 'endpoint', 'host', 'state', 'claim', 'seq', 'test'}
local DELIVERY_ENDED = {succeeded = true, failed = true}

local function load_delivery(id)
  local values = redis.call('HMGET', delivery_key(id), unpack(DELIVERY_FIELDS))
  if not values[1] then return nil end
  local delivery = {id = id}
  for i, name in ipairs(DELIVERY_FIELDS) do delivery[name] = values[i] or nil end
  return delivery
end

-- Secrets that were replaced and are still valid, the newest first: {until when, sealed}.
local function old_secrets(record, at)
  local found = {}
  for till, secret in (redis.call('HGET', record, 'old_secrets') or ''):gmatch('(%d+):(%S+)') do
    if tonumber(till) > at then found[#found + 1] = {tonumber(till), secret} end
  end
  return found
end

-- Two leaves for each delivery: of its endpoint, and of all that its owner has.
local function delivery_leaf(owner, endpoint, status)
  return PREFIX .. 'deliveries:' .. owner .. ':' .. endpoint .. ':' .. status
end
local function delivery_leaves(delivery, status)
  return {
    delivery_leaf(delivery.owner, 'all', status),
    delivery_leaf(delivery.owner, delivery.endpoint == '' and 'job' or delivery.endpoint, status),
  }
end

local function turns(host, at)
  local slow_until = redis.call('ZSCORE', key('webhook-slow'), host)
  return key(slow_until and tonumber(slow_until) > at and 'webhook-turns:slow' or 'webhook-turns:fast')
end

-- Put a host in line. Workers look again when a line begins, and go on by themselves until there is none.
local function give_turn(host, at)
  if redis.call('EXISTS', due_key(host)) == 0 then return end
  local line = turns(host, at)
  if redis.call('ZADD', line, 'NX', redis.call('INCR', key('webhook-turn')), host) == 1 and redis.call('ZCARD', line) == 1 then
    redis.call('PUBLISH', WEBHOOKS_CHANNEL, '')
  end
end

-- For a while after a slow answer a host counts as slow, and after a quick one it does not.
local function note_pace(host, slow, at)
  local before = turns(host, at)
  if slow then
    redis.call('ZADD', key('webhook-slow'), at + SLOW_MS, host)
  else
    redis.call('ZREM', key('webhook-slow'), host)
  end
  if turns(host, at) ~= before and redis.call('ZREM', before, host) == 1 then give_turn(host, at) end
end

-- Take a delivery out of where it is.
local function leave_outbox(delivery, at)
  local id, host = delivery.id, delivery.host
  if delivery.state == 'due' then
    redis.call('ZREM', due_key(host), id)
  elseif delivery.state == 'scheduled' then
    redis.call('ZREM', key('webhook-scheduled'), id)
  elseif delivery.state == 'delivering' then
    redis.call('ZREM', key('webhook-leases'), id)
    if redis.call('HINCRBY', key('webhook-running'), host, -1) <= 0 then redis.call('HDEL', key('webhook-running'), host) end
    give_turn(host, at)
  end
  redis.call('ZREM', key('backlog:webhooks'), id)
end

local function make_due(delivery, at)
  local id, host = delivery.id, delivery.host
  delivery.state = 'due'
  redis.call('HSET', delivery_key(id), 'state', 'due', 'due', at, 'host', host)
  redis.call('ZADD', due_key(host), at, id)
  redis.call('ZADD', key('backlog:webhooks'), 'NX', at, id)
  give_turn(host, at)
end

-- Where a delivery goes now: its endpoint may have moved since. nil where there is no such endpoint any more.
local function host_now(delivery)
  if delivery.endpoint == '' then return delivery.host end
  return redis.call('HGET', endpoint_key(delivery.endpoint), 'host') or nil
end

-- Put an event into the outbox, to be sent now. Its id is derived from what it is about, so that it is there once.
local function post(delivery, at)
  if redis.call('EXISTS', delivery_key(delivery.id)) == 1 then return end
  local seq = redis.call('INCR', key('webhook-seq'))
  redis.call('HSET', delivery_key(delivery.id), 'owner', delivery.owner, 'endpoint', delivery.endpoint, 'event',
    delivery.event, 'type', delivery.type, 'object', delivery.object, 'created', at, 'seq', seq, 'round', 0)
  if delivery.url then redis.call('HSET', delivery_key(delivery.id), 'url', delivery.url) end
  if delivery.test then redis.call('HSET', delivery_key(delivery.id), 'test', '1') end
  for _, leaf in ipairs(delivery_leaves(delivery, 'pending')) do redis.call('ZADD', leaf, seq, delivery.id) end
  make_due(delivery, at)
end

local function end_delivery(delivery, state, at, ttl)
  leave_outbox(delivery, at)
  redis.call('HSET', delivery_key(delivery.id), 'state', state, 'ended', at)
  -- An end is final: whoever had it last has no say any more.
  redis.call('HDEL', delivery_key(delivery.id), 'claim')
  redis.call('PEXPIRE', delivery_key(delivery.id), ttl)
  local before = delivery_leaves(delivery, 'pending')
  for i, leaf in ipairs(delivery_leaves(delivery, state)) do
    redis.call('ZREM', before[i], delivery.id)
    redis.call('ZADD', leaf, delivery.seq, delivery.id)
    redis.call('ZADD', key('expiring'), at + ttl, leaf .. ' ' .. delivery.id)
  end
  if delivery.test then redis.call('PUBLISH', EVENTS_CHANNEL, delivery.id .. ' ' .. state) end
end

local function schedule_delivery(delivery, due, at)
  leave_outbox(delivery, at)
  redis.call('HSET', delivery_key(delivery.id), 'state', 'scheduled', 'due', due)
  redis.call('ZADD', key('webhook-scheduled'), due, delivery.id)
end

local function unsubscribe(owner, endpoint)
  for type in EVENT_TYPES:gmatch('[^,]+') do redis.call('SREM', subscribers_key(owner, type), endpoint) end
end

local function disable(owner, endpoint, reason, at)
  if redis.call('HSETNX', endpoint_key(endpoint), 'disabled', at) == 1 then
    redis.call('HSET', endpoint_key(endpoint), 'disabled_reason', reason, 'updated', at)
  end
  unsubscribe(owner, endpoint)
end

-- Tell a job's owner that it has ended: every endpoint that wants such events, and the job's own URL.
local function announce(job, status, at)
  local type, number = 'response.' .. status, job.id:match('_(%x+)$')
  local function tell(target, endpoint, host, url)
    post({id = 'whd_' .. number .. '_' .. target, owner = job.owner, endpoint = endpoint, host = host, url = url,
      event = 'evt_' .. number, type = type, object = job.id}, at)
  end
  for _, endpoint in ipairs(redis.call('SMEMBERS', subscribers_key(job.owner, type))) do
    local host = redis.call('HGET', endpoint_key(endpoint), 'host')
    if host then tell(endpoint:sub(-12), endpoint, host) end
  end
  if job.webhook_host then
    tell('job', '', job.webhook_host, redis.call('HGET', PREFIX .. 'job:' .. job.id, 'webhook_url'))
  end
end
