-- leave: changes the entry of a process after its calls were served in the process or stopped waiting.
-- ARGV    2 holder  3 queue  4 the change of its number of waiting calls: '+n', '-n' or '=n'  5 for how many ms the
--         oldest of them has waited
-- writes  the entry of the holder: queue:<queue>, counts:<queue>, entries:<holder>, waiting, former;
--         escalated:<runtime>

change_entry(ARGV[3], ARGV[2], ARGV[4], now - tonumber(ARGV[5]))
deescalate(ARGV[3])
return 1
