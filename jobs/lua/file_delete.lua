-- Remove a file's record; its content is garbage from now on. ARGV: id, owner. Answers the content's key, or '' if the owner
-- has no such file.
local id, owner = ARGV[1], ARGV[2]
local file = redis.call('HMGET', file_key(id), 'owner', 'purpose', 'content')
if file[1] ~= owner then return '' end
for _, leaf in ipairs(file_leaves(owner, file[2])) do
  redis.call('ZREM', leaf, id)
  redis.call('ZREM', key('expiring'), leaf .. ' ' .. id)
end
redis.call('DEL', file_key(id))
discard_content(file[3], now())
return file[3]
