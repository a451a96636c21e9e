-- Make or change a webhook endpoint. ARGV: id, owner, '' or how many the owner may have (to make one), '1' or '0' to enable or
-- disable it, else '', event types separated by commas or '' to leave them, then fields of the record.
-- Answers {done, when it was made (ms)}, {gone} or {full}. Refused by a full Redis.
local id, owner, limit, enabled, types = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local fields = {unpack(ARGV, 6)}
local record, at = endpoint_key(id), now()
local known = redis.call('HGET', record, 'owner')
if limit ~= '' and not known then
  local index = key('webhook-endpoints:' .. owner)
  if redis.call('ZCARD', index) >= tonumber(limit) then return {'full'} end
  redis.call('ZADD', index, redis.call('INCR', key('webhook-seq')), id)
  redis.call('HSET', record, 'owner', owner, 'created', at, 'updated', at)
elseif known ~= owner then
  return {'gone'}
end

local changed = false
if types ~= '' then fields[#fields + 1] = 'types'; fields[#fields + 1] = types end
for i = 1, #fields, 2 do
  if redis.call('HGET', record, fields[i]) ~= fields[i + 1] then
    redis.call('HSET', record, fields[i], fields[i + 1])
    if fields[i] == 'url' then redis.call('HDEL', record, 'failing_since', 'failed_last') end
    changed = true
  end
end
local disabled = redis.call('HEXISTS', record, 'disabled') == 1
if enabled == '1' and disabled then
  redis.call('HDEL', record, 'disabled', 'disabled_reason', 'failing_since', 'failed_last')
  disabled, changed = false, true
elseif enabled == '0' and not disabled then
  redis.call('HSET', record, 'disabled', at, 'disabled_reason', 'owner')
  disabled, changed = true, true
end
if changed then redis.call('HSET', record, 'updated', at) end
unsubscribe(owner, id)
if not disabled then
  for type in redis.call('HGET', record, 'types'):gmatch('[^,]+') do redis.call('SADD', subscribers_key(owner, type), id) end
end
return {'done', tonumber(redis.call('HGET', record, 'created'))}
