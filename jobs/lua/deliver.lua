-- Lease deliveries that are due, one host after the other. ARGV: claim id, how many to hosts that are not slow, how many to
-- slow ones, the most for one host at once, lease in ms, ttl in ms. Answers {claimed deliveries}, each a flat list of its
-- record with its line (fast or slow), url, secret and old_secrets (sealed) where there are such.
local claim, free_fast, free_slow, per_host, lease, ttl =
  ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local at = now()
local answer = {}

local function refused(delivery)
  if delivery.endpoint == '' then return nil end
  local known = redis.call('HMGET', endpoint_key(delivery.endpoint), 'owner', 'disabled')
  if not known[1] then return 'endpoint_deleted' end
  if known[2] and not delivery.test then return 'endpoint_disabled' end
end

local function tell(delivery, line)
  local found = redis.call('HGETALL', delivery_key(delivery.id))
  local signing = delivery.endpoint == '' and owner_secret_key(delivery.owner) or endpoint_key(delivery.endpoint)
  local known = redis.call('HMGET', signing, 'secret', 'url')
  local function add(name, value)
    found[#found + 1] = name
    found[#found + 1] = value
  end
  add('id', delivery.id)
  add('line', line)
  if known[1] then add('secret', known[1]) end
  local old = {}
  for i, one in ipairs(old_secrets(signing, at)) do old[i] = one[2] end
  if #old > 0 then add('old_secrets', table.concat(old, ' ')) end
  if known[2] then add('url', known[2]) end
  answer[#answer + 1] = found
end

-- What was leased under the claim id, for a replay after a lost reply.
local taken_key = key('webhook-taken:' .. claim)
local before = redis.call('LRANGE', taken_key, 0, -1)
if #before > 0 then
  for i = 1, #before, 2 do
    local delivery = load_delivery(before[i])
    if delivery and delivery.state == 'delivering' and delivery.claim == claim then tell(delivery, before[i + 1]) end
  end
  return answer
end

local function take(delivery, line)
  local id = delivery.id
  redis.call('ZREM', due_key(delivery.host), id)
  redis.call('HSET', delivery_key(id), 'state', 'delivering', 'claim', claim)
  redis.call('ZADD', key('webhook-leases'), at + lease, id)
  redis.call('HINCRBY', key('webhook-running'), delivery.host, 1)
  redis.call('RPUSH', taken_key, id, line)
  tell(delivery, line)
end

-- What cannot be sent is ended on the way, but not all at once: nobody else is served meanwhile.
local looks = free_fast + free_slow + 500

local function serve(kind, free)
  local line = key('webhook-turns:' .. kind)
  while free > 0 and looks > 0 do
    looks = looks - 1
    local host = redis.call('ZRANGE', line, 0, 0)[1]
    if not host then return end
    local running = tonumber(redis.call('HGET', key('webhook-running'), host) or 0)
    local id = running < per_host and redis.call('ZRANGE', due_key(host), 0, 0)[1]
    local delivery = id and load_delivery(id)
    if not id then
      redis.call('ZREM', line, host)
    elseif not delivery or delivery.state ~= 'due' or delivery.host ~= host then
      redis.call('ZREM', due_key(host), id)
    elseif (host_now(delivery) or host) ~= host then
      -- Its endpoint has moved since: it waits for its turn there.
      leave_outbox(delivery, at)
      delivery.host = host_now(delivery)
      make_due(delivery, at)
    else
      redis.call('ZADD', line, redis.call('INCR', key('webhook-turn')), host)
      local why = refused(delivery)
      if why then
        redis.call('HSET', delivery_key(id), 'error', why)
        end_delivery(delivery, 'failed', at, ttl)
      else
        take(delivery, kind)
        free = free - 1
      end
    end
  end
end

serve('fast', free_fast)
serve('slow', free_slow)
if #answer > 0 then redis.call('PEXPIRE', taken_key, lease) end
return answer
