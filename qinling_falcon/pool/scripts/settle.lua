-- settle: the first word on every new connection. Notices that the server is another one, or was started anew and
-- may have lost its last writes: generations could be older ones again, waiters could be missing.
-- ARGV    2 run id of the server
-- reads   server      writes  server, generations, holders, reaper
-- promises  on a server run that was not seen before no generation is kept; every process finds itself unknown at its
--           next heartbeat, so that its waiters queue again; and no holder is taken for dead before it could report

if call('GET', SERVER) ~= ARGV[2] then
  call('SET', SERVER, ARGV[2])
  call('DEL', GENERATIONS, HOLDERS, REAPER)
end
return 1
