-- Files: a record in Redis, whose content lies in the storage (jobs/storage) under a key of its own. A record expires by
-- itself, to the millisecond; its index entries go with the jobs' own (`purge`).
--
-- `garbage` holds what is to be deleted from the storage, by when: the key of each content that no file has (yet), or
-- whose file expires. So none is left for good, whoever is killed when: a key stands here before its content is
-- written, and until it is deleted. A member that ends in a slash is a folder of keys. No key is used twice.

local function file_key(id) return PREFIX .. 'file:' .. id end
local function file_leaves(owner, purpose)
  return {PREFIX .. 'files:' .. owner .. ':all', PREFIX .. 'files:' .. owner .. ':' .. purpose}
end

-- Have a content deleted at that time, unless a file takes it or it is discarded before.
local function reserve_content(content, due) redis.call('ZADD', key('garbage'), due, content) end

-- Have a content, or a folder of them, deleted now.
local function discard_content(content, at) redis.call('ZADD', key('garbage'), at, content) end

-- Make a file of a content that is written. `file`: id, owner, filename, purpose, bytes, content (its key in the storage),
-- lifetime (ms from now; nil: for good). Once for each id: a second time does nothing, and discards a second content.
local function keep_file(file, at)
  local record = file_key(file.id)
  local known = redis.call('HGET', record, 'content')
  if known then
    if known ~= file.content then discard_content(file.content, at) end
    return
  end
  local seq = redis.call('INCR', key('file-seq'))
  redis.call('HSET', record, 'owner', file.owner, 'filename', file.filename, 'purpose', file.purpose, 'bytes', file.bytes,
    'content', file.content, 'created', at, 'seq', seq)
  local leaves = file_leaves(file.owner, file.purpose)
  for _, leaf in ipairs(leaves) do redis.call('ZADD', leaf, seq, file.id) end
  if not file.lifetime then
    redis.call('ZREM', key('garbage'), file.content)
    return
  end
  local till = at + file.lifetime
  redis.call('HSET', record, 'expires', till)
  redis.call('PEXPIREAT', record, till)
  reserve_content(file.content, till)
  for _, leaf in ipairs(leaves) do redis.call('ZADD', key('expiring'), till, leaf .. ' ' .. file.id) end
end
