-- gone: a worker exists no longer.
-- ARGV    5 worker
-- reads   worker:<id>      writes  all of the worker's keys and sets; lost, when a lease is lost by it
-- promises  nothing of the worker is left

local key = P .. 'worker:' .. ARGV[5]
local is = call('HMGET', key, 'state', 'runtime', 'accepted')
if not is[1] then return 0 end
if is[1] ~= 'leased' then
  doom(ARGV[5])
elseif is[3] == '1' then
  lose(ARGV[5])
else
  call('HSET', key, 'doomed', '1')
  return_unused(ARGV[5])
end
call('ZREM', P .. 'starting:' .. is[2], ARGV[5])
call('ZREM', DRAINING, ARGV[5])
call('SREM', WORKERS, ARGV[5])
call('DEL', key)
settle_queue()
return 1
