-- The newest deliveries of an owner. ARGV: owner, after (an id or ''), limit, fields, endpoint ('all', 'job' or an id),
-- states (fields and states separated by commas). Answers as list.lua does.
local owner, after, limit, endpoint = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local fields, leaves, below = {}, {}, '+inf'
for field in ARGV[4]:gmatch('[^,]+') do fields[#fields + 1] = field end
if after ~= '' then
  local delivery = load_delivery(after)
  if not delivery or delivery.owner ~= owner then return {0} end
  below = '(' .. delivery.seq
end
for status in ARGV[6]:gmatch('[^,]+') do leaves[#leaves + 1] = delivery_leaf(owner, endpoint, status) end
return newest(leaves, below, limit, delivery_key, fields)
