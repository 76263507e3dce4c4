-- ready: a worker answers.
-- ARGV    5 worker  6 runtime  7 the image that it was made from  8 address  9 secret
-- reads   worker:<id>, runtimes, lines      writes  worker:<id>, workers, live:<runtime>, starting:<runtime>,
--         bare, warm:<runtime> or draining; for a waiter what lease writes
-- promises  a waiter gets it before it is warm for anybody else; a worker that Redis knows nothing of (it was
--           emptied meanwhile) is known from now on, and drains where it has no place

local key = P .. 'worker:' .. ARGV[5]
local state = call('HGET', key, 'state')
if state and state ~= 'starting' then return 0 end
call('ZREM', P .. 'starting:' .. ARGV[6], ARGV[5])
call('SADD', WORKERS, ARGV[5])
call('HSET', key, 'runtime', ARGV[6], 'image', ARGV[7], 'address', ARGV[8], 'secret', ARGV[9], 'ready', text(now))
if call('SCARD', WORKERS) > MAX_WORKERS then
  put_draining(ARGV[5], ARGV[6])
else
  call('SADD', P .. 'live:' .. ARGV[6], ARGV[5])
  call('HDEL', BARE, ARGV[6])
  put_warm(ARGV[5], ARGV[6])
end
settle_queue()
return 1
