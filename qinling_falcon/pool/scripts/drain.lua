-- drain: the workers of a function (or of one version) end, after their call if they have one.
-- ARGV    5 what their target begins with: 'function:' or 'function:version:'
-- reads   workers, worker:<id>      writes  idle, idle:<target>, draining, wakeups; worker:<id> doomed
-- returns the number of workers
-- promises  no call that begins later gets one of them

local count = 0
for _, worker in ipairs(call('SMEMBERS', WORKERS)) do
  local target = call('HGET', P .. 'worker:' .. worker, 'target')
  if target and string.sub(target, 1, #ARGV[5]) == ARGV[5] then
    doom(worker)
    count = count + 1
  end
end
settle_queue()
return count
