-- forget: a runtime has no pool any more.
-- ARGV    5 runtime
-- reads   live:<runtime>      writes  runtimes, bare, and for its free workers idle, idle:<target>, warm:<runtime>, draining
-- promises  its workers end: free ones now, leased ones after their call, starting ones when they are ready

call('HDEL', RUNTIMES, ARGV[5])
call('HDEL', BARE, ARGV[5])
for _, worker in ipairs(call('SMEMBERS', P .. 'live:' .. ARGV[5])) do doom(worker) end
settle_queue()
return 1
