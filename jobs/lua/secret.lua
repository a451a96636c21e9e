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
redis.call('HDEL', record, 'old_secret', 'old_until')
if mode == 'rotate' then
  redis.call('HSET', record, 'updated', at)
  if keep > 0 then redis.call('HSET', record, 'old_secret', before[2], 'old_until', at + keep) end
else
  redis.call('HSET', record, 'owner', owner, 'created', at, 'updated', at)
end
redis.call('HSET', record, 'secret', secret, 'hint', hint)
return 'done'
