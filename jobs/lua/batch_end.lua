-- End a batch whose files are put together. ARGV: id, claim id, status, ttl in ms, how long the files are kept (ms) or '', then
-- for its results and for its errors: the file's id, its content's key or '' (there is none), its size in bytes.
-- Answers done or fenced.
local id, claim, status, ttl, lifetime = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local record = batch_key(id)
local known = redis.call('HMGET', record, 'claim', 'owner', 'status')
if known[3] == status then return 'done' end  -- a replay after a lost reply
if known[1] ~= claim then return 'fenced' end
local at, fields = now(), {}
for i, kind in ipairs({'output', 'error'}) do
  local file, content, bytes = ARGV[3 + 3 * i], ARGV[4 + 3 * i], ARGV[5 + 3 * i]
  if content ~= '' then
    keep_file({
      id = file, owner = known[2], filename = id .. '_' .. kind .. '.jsonl', purpose = 'batch_output', bytes = bytes,
      content = content, lifetime = lifetime ~= '' and tonumber(lifetime) or nil,
    }, at)
    fields[#fields + 1] = kind
    fields[#fields + 1] = file
  end
end
-- Nothing was left to be done when it was cancelled, or its time was over.
end_batch(id, status, fields, at, ttl)
return 'done'
