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
  if not job or job.owner ~= owner or job.batch or job.kind == UNSTORED then return {0} end
  below = '(' .. job.seq
end

local leaves = {}
for _, kind in ipairs(kinds) do
  for _, status in ipairs(statuses) do
    for _, queue in ipairs(queues) do
      leaves[#leaves + 1] = leaf({owner = owner, kind = kind, queue = queue}, status)
    end
  end
end
return newest(leaves, below, limit, job_key, fields)
