-- Keep a signing secret, sealed. ARGV: mode, 'endpoint' or 'owner', id or owner, owner, secret, hint, ms for which the one
-- before stays valid. Mode 'make': only where there is none. Mode 'rotate': in place of the one that is there.
-- Answers done, or gone (nothing to rotate), known (nothing to make). Refused by a full Redis.
local mode, kind, id, owner, secret, hint, keep =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local at = now()
local record = kind == 'endpoint' and endpoint_key(id) or owner_secret_key(id)
local before = redis.call('HMGET', record, 'owner', 'secret')
if mode == 'make' and before[2] then return 'known' end
if mode == 'rotate' and (before[1] ~= owner or not before[2]) then return 'gone' end
if mode == 'rotate' and before[2] == secret then return 'done' end  -- a replay after a lost reply
local old = keep > 0 and old_secrets(record, at) or {}
redis.call('HDEL', record, 'old_secrets')
if mode == 'rotate' then
  redis.call('HSET', record, 'updated', at)
  if keep > 0 then
    table.insert(old, 1, {at + keep, before[2]})
    local kept = {}
    for i = 1, math.min(#old, MAX_OLD_SECRETS) do kept[i] = string.format('%.0f', old[i][1]) .. ':' .. old[i][2] end
    redis.call('HSET', record, 'old_secrets', table.concat(kept, ' '))
  end
else
  redis.call('HSET', record, 'owner', owner, 'created', at, 'updated', at)
end
redis.call('HSET', record, 'secret', secret, 'hint', hint)
return 'done'
