-- The newest batches of an owner. ARGV: owner, after (a batch's id or ''), limit, fields separated by commas.
-- Answers {found, {id, field values…}…}; found is 0 where the owner has no batch `after`.
local owner, after, limit, fields = ARGV[1], ARGV[2], tonumber(ARGV[3]), {}
for name in ARGV[4]:gmatch('[^,]+') do fields[#fields + 1] = name end
local index, below = PREFIX .. 'batches:' .. owner, '+inf'
if after ~= '' then
  local number = redis.call('ZSCORE', index, after)
  if not number then return {0} end
  below = '(' .. number
end
return newest({index}, below, limit, batch_key, fields)
