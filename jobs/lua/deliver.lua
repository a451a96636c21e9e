-- Lease deliveries that are due, one host after the other. ARGV: claim id, how many to hosts that are not slow, how many to
-- slow ones, the most for one host at once, lease in ms, ttl in ms. Answers {claimed deliveries}, each a flat list of its
-- record with its line (fast or slow), url, secret and old_secret (sealed) where there are such.
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

local function take(delivery, line)
  local id = delivery.id
  redis.call('ZREM', due_key(delivery.host), id)
  redis.call('HSET', delivery_key(id), 'state', 'delivering', 'claim', claim)
  redis.call('ZADD', key('webhook-leases'), at + lease, id)
  redis.call('HINCRBY', key('webhook-running'), delivery.host, 1)
  local found = redis.call('HGETALL', delivery_key(id))
  local signing = delivery.endpoint == '' and owner_secret_key(delivery.owner) or endpoint_key(delivery.endpoint)
  local secrets = redis.call('HMGET', signing, 'secret', 'old_secret', 'old_until', 'url')
  local function add(name, value)
    found[#found + 1] = name
    found[#found + 1] = value
  end
  add('id', id)
  add('line', line)
  if secrets[1] then add('secret', secrets[1]) end
  if secrets[2] and tonumber(secrets[3]) > at then add('old_secret', secrets[2]) end
  if secrets[4] then add('url', secrets[4]) end
  answer[#answer + 1] = found
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
return answer
