-- Note that content is about to be written, so that it is deleted if no file takes it. ARGV: its key in the storage, how
-- long it may take (ms). Answers 1. Refused by a full Redis.
reserve_content(ARGV[1], now() + ARGV[2])
return 1
