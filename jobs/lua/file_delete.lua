-- Remove a file's record; its content is garbage from now on. ARGV: id, owner. Answers the content's key, '' if the owner has
-- no such file, or 'used' if a batch still needs the content.
local id, owner = ARGV[1], ARGV[2]
local file = redis.call('HMGET', file_key(id), 'owner', 'purpose', 'content')
if file[1] ~= owner then return '' end
for _, leaf in ipairs(file_leaves(owner, file[2])) do
  redis.call('ZREM', leaf, id)
  redis.call('ZREM', key('expiring'), leaf .. ' ' .. id)
end
redis.call('DEL', file_key(id))
if redis.call('HEXISTS', key('file-uses'), id) == 1 then return 'used' end
discard_content(file[3], now())
return file[3]
