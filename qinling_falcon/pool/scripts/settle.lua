-- settle: the first word on every new connection. Notices that the server is another one, or was started anew and
-- may have lost its last writes: generations could have come back to older values, waiters could be missing.
-- ARGV    2 run id of the server
-- reads   epoch      writes  epoch, generations
-- promises  on a server run that was not seen before no generation is kept, and the epoch differs, by which every
--           process knows that its waiters must queue again (see heartbeat)

local epoch = call('GET', EPOCH)
if not epoch or string.sub(epoch, 1, #ARGV[2]) ~= ARGV[2] then
  call('SET', EPOCH, ARGV[2] .. ' ' .. text(now))
  call('DEL', GENERATIONS)
end
return 1
