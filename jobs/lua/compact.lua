-- Take stale messages out of a queue's list: those whose job does not wait, and all but the oldest of a job's own. ARGV:
-- queue. Called when most of a list is stale, so that what it costs is paid for by what it removes. Answers how many it took.
local list, waiting = message_list(ARGV[1]), key('waiting:' .. ARGV[1])
local messages = redis.call('LRANGE', list, 0, -1)
local kept, seen = {}, {}
for i = #messages, 1, -1 do  -- the oldest is last
  local id = messages[i]:match('"id": "([^"]+)"')
  if id and not seen[id] and redis.call('ZSCORE', waiting, id) then
    seen[id] = true
    kept[#kept + 1] = messages[i]
  end
end
redis.call('DEL', list)
for _, message in ipairs(kept) do redis.call('LPUSH', list, message) end
return #messages - #kept
