-- settle: the first word on every new connection. Notices that the server is another one, or was started anew and
-- may have lost its last writes: generations could be older ones again, entries could be missing.
-- ARGV    2 run id of the server
-- reads   server, holders
-- writes  server, former, holders, generations, reaper
-- promises  on a server run that was not seen before no generation is kept; every process finds itself unknown at its
--           next heartbeat, so that its calls queue again; and no holder is taken for dead before it could report

if call('GET', P .. 'server') ~= ARGV[2] then
  call('SET', P .. 'server', ARGV[2])
  call('DEL', P .. 'generations', P .. 'reaper')
  local holders = call('ZRANGE', P .. 'holders', 0, -1)
  for _, holder in ipairs(holders) do call('ZADD', P .. 'former', now, holder) end
  call('DEL', P .. 'holders')
end
return 1
