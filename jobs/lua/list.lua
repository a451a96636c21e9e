-- The newest jobs of an owner, merged from the leaves asked for. ARGV: owner, after (a job id or ''), limit, fields,
-- kinds, statuses and queues (each separated by commas). Answers {found, {id, field values…}…}; found is 0 where the
-- owner has no job `after`. The cost depends on the limit and the number of leaves, not on how many jobs there are.
local owner, after, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local function split(text)
  local parts = {}
  for part in text:gmatch('[^,]+') do parts[#parts + 1] = part end
  return parts
end
local fields, kinds, statuses, queues = split(ARGV[4]), split(ARGV[5]), split(ARGV[6]), split(ARGV[7])

local below = '+inf'
if after ~= '' then
  local job = load(after)
  if not job or job.owner ~= owner then return {0} end
  below = '(' .. job.seq
end

-- Each leaf is read a page at a time. What has expired and is not purged yet is taken away on the way, so that it can
-- neither fill a page nor be met again.
local leaves = {}
local function refill(one)
  one.ids = redis.call('ZREVRANGEBYSCORE', one.index, one.below, '-inf', 'WITHSCORES', 'LIMIT', 0, limit)
  one.at = 1
  if #one.ids > 0 then one.below = '(' .. one.ids[#one.ids] end
end
for _, kind in ipairs(kinds) do
  for _, status in ipairs(statuses) do
    for _, queue in ipairs(queues) do
      local one = {index = leaf({owner = owner, kind = kind, queue = queue}, status), below = below}
      refill(one)
      if #one.ids > 0 then leaves[#leaves + 1] = one end
    end
  end
end

local answer = {1}
while #answer <= limit do
  local newest
  for _, one in ipairs(leaves) do
    if one.ids[one.at] and (not newest or tonumber(one.ids[one.at + 1]) > tonumber(newest.ids[newest.at + 1])) then
      newest = one
    end
  end
  if not newest then break end
  local id = newest.ids[newest.at]
  local values = redis.call('HMGET', job_key(id), 'owner', unpack(fields))
  if values[1] then
    values[1] = id
    answer[#answer + 1] = values
  else
    redis.call('ZREM', newest.index, id)
  end
  newest.at = newest.at + 2
  if not newest.ids[newest.at] then refill(newest) end
end
return answer
