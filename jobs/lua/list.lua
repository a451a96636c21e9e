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
local found = {}
for _, kind in ipairs(kinds) do
  for _, status in ipairs(statuses) do
    for _, queue in ipairs(queues) do
      local index = leaf({owner = owner, kind = kind, queue = queue}, status)
      local ids = redis.call('ZREVRANGEBYSCORE', index, below, '-inf', 'WITHSCORES', 'LIMIT', 0, limit + 16)
      for i = 1, #ids, 2 do found[#found + 1] = {tonumber(ids[i + 1]), ids[i]} end
    end
  end
end
table.sort(found, function(a, b) return a[1] > b[1] end)
local answer = {1}
for _, entry in ipairs(found) do
  if #answer > limit then break end
  local values = redis.call('HMGET', job_key(entry[2]), 'owner', unpack(fields))
  if values[1] then  -- else it expired a moment ago and is not purged yet
    values[1] = entry[2]
    answer[#answer + 1] = values
  end
end
return answer
