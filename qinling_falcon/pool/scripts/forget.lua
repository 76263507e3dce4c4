-- forget: removes the pool of a runtime.
-- ARGV    2 runtime
-- reads   live:<runtime>
-- writes  runtimes, bare, policy; for each worker what drain writes
-- promises  its workers end: free ones now, leased ones after their call, starting ones when they are ready

call('HDEL', RUNTIMES, ARGV[2])
call('HDEL', BARE, ARGV[2])
call('HDEL', POLICY, 'first ' .. ARGV[2])
for _, outcome in ipairs({'hit', 'wait', 'assign', 'start', 'refused'}) do
  call('HDEL', P .. 'calls', ARGV[2] .. ' ' .. outcome)
end
for _, worker in ipairs(call('SMEMBERS', P .. 'live:' .. ARGV[2])) do
  drain(worker, 'ended', 'the runtime has no pool any more')
end
return 1
