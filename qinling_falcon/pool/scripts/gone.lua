-- gone: a worker exists no longer.
-- include: limits workers queues leases
-- ARGV    2 worker
-- promises  nothing of the worker is left; an execution that it ran is handed on as lost

local worker = ARGV[2]
local is = call('HMGET', record(worker), 'state', 'runtime', 'accepted')
if not is[1] then return 0 end
if is[1] == 'leased' and is[3] == '0' then
  call('HSET', record(worker), 'drain', '1')
  return_unused(worker)
elseif is[1] == 'leased' then
  lose(worker)
else
  drain(worker)
end
call('ZREM', P .. 'starting:' .. is[2], worker)
call('ZREM', DRAINING, worker)
call('SREM', WORKERS, worker)
call('SREM', P .. 'live:' .. is[2], worker)
call('DEL', record(worker))
wake()
return 1
