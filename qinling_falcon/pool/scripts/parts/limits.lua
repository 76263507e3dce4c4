-- limits: how many leases a version, a function, a project and a runtime may have, and how many they have.
--
-- The hash `concurrency` has the limits (written by the manager), the own limits of versions (written by lease and
-- renew; the function itself is version 0), the counts, and the reservations. So one command reads everything that a
-- lease needs. The reaper removes counts of 0.
--
-- One lease of a function, of a project and of a runtime can be reserved for a target, for a limited time (see
-- `serve_blocked`). For other targets the limit is then less by 1.
-- include: workers

local CONCURRENCY = P .. 'concurrency'
local UNLIMITED = 1e9  -- also used before the manager has written the limits
local RESERVABLE = {'function', 'project', 'runtime'}
local LONGEST_RESERVATION_MS = 10000

-- `function:version` of a target.
local function version_of(target)
  return string.match(target, '^[^:]*:?[^:]*')
end

-- The fields of `concurrency` that hold reservations: of the function, the project and the runtime.
local function names_of_reservations(target, project_id, runtime)
  return {
    'reserved function ' .. function_of(target), 'reserved project ' .. project_id, 'reserved runtime ' .. runtime,
  }
end

-- Until when a reservation holds, and its target. The time may have passed. Nil: there is no reservation.
local function parse_reservation(stored)
  if not stored then return nil end
  local till, target = string.match(stored, '^(%d+) (.*)$')
  return tonumber(till), target
end

-- Whether the time of a reservation has not passed. If the clock was set back, the reservation ends early.
local function is_valid(till)
  return till > now and till <= now + LONGEST_RESERVATION_MS
end

-- The limits and counts of a target's version and function, of its project and its runtime; for the last three also how
-- many leases are reserved for other targets. `reservation` is 'valid' or 'expired' if one of them has a reservation
-- for this target.
local function read_counts(target, project_id, runtime)
  local version = version_of(target)
  local reservations = names_of_reservations(target, project_id, runtime)
  local is = call('HMGET', CONCURRENCY, 'limit function', 'limit project', 'limit runtime', 'own ' .. version,
    'version ' .. version, 'function ' .. function_of(target), 'project ' .. project_id, 'runtime ' .. runtime,
    unpack(reservations))
  local counts = {
    own = is[4],
    version_limit = tonumber(is[4]) or UNLIMITED, function_limit = tonumber(is[1]) or UNLIMITED,
    project_limit = tonumber(is[2]) or UNLIMITED, runtime_limit = tonumber(is[3]) or UNLIMITED,
    versions = tonumber(is[5]) or 0, functions = tonumber(is[6]) or 0, projects = tonumber(is[7]) or 0,
    runtimes = tonumber(is[8]) or 0,
    version_reserved = 0, function_reserved = 0, project_reserved = 0, runtime_reserved = 0,
  }
  if is[9] or is[10] or is[11] then
    for at, limit in ipairs(RESERVABLE) do
      local till, reserved_for = parse_reservation(is[8 + at])
      if reserved_for == target then
        counts.reservation = is_valid(till) and 'valid' or counts.reservation or 'expired'
      elseif till and is_valid(till) then
        counts[limit .. '_reserved'] = 1
      end
    end
  end
  return counts
end

-- Like read_counts, after it has set the version's own limit to that of the call, if it differs. '' is no limit.
local function read_counts_with_own(target, project_id, runtime, own)
  local counts = read_counts(target, project_id, runtime)
  if (counts.own or '') == own then return counts end
  if own == '' then
    call('HDEL', CONCURRENCY, 'own ' .. version_of(target))
  else
    call('HSET', CONCURRENCY, 'own ' .. version_of(target), own)
  end
  return read_counts(target, project_id, runtime)
end

-- How many more leases the limits allow. Negative if a limit was lowered below its count.
local function room_of(counts)
  return math.min(counts.version_limit - counts.versions,
    counts.function_limit - counts.functions - counts.function_reserved,
    counts.project_limit - counts.projects - counts.project_reserved,
    counts.runtime_limit - counts.runtimes - counts.runtime_reserved)
end

-- Whether a limit ('version', 'function', 'project' or 'runtime') is reached.
local function is_reached(counts, limit)
  return counts[limit .. 's'] + counts[limit .. '_reserved'] >= counts[limit .. '_limit']
end

-- Whether the limits allow one more lease.
local function allows_one_more(counts)
  return room_of(counts) > 0
end

-- Whether the present leases exceed no limit. They can, because a limit may be lowered below its count.
local function exceeds_none(counts)
  return room_of(counts) >= 0
end

-- Reserves one lease for a target, at each limit that allows at most one more. Returns false, and reserves nothing, if
-- there is no such limit, if one of them has a valid reservation for another target, or if the last reservation for
-- this target expired less than `reserve_ms` ago. So a target that gets no worker does not hold a lease back all the
-- time.
local function reserve(counts, reserve_ms, target, project_id, runtime)
  local names, wanted, is_scarce = names_of_reservations(target, project_id, runtime), {}, false
  local stored = call('HMGET', CONCURRENCY, unpack(names))
  for at, limit in ipairs(RESERVABLE) do
    if counts[limit .. 's'] + counts[limit .. '_reserved'] + 1 >= counts[limit .. '_limit'] then
      is_scarce = true
      local till, reserved_for = parse_reservation(stored[at])
      if till and (reserved_for ~= target and is_valid(till)
        or reserved_for == target and not is_valid(till) and math.abs(now - till) < reserve_ms) then return false end
      if reserved_for ~= target or not is_valid(till) then wanted[#wanted + 1] = names[at] end
    end
  end
  local reservation = text(now + math.min(reserve_ms, LONGEST_RESERVATION_MS)) .. ' ' .. target
  for _, name in ipairs(wanted) do call('HSET', CONCURRENCY, name, reservation) end
  return is_scarce
end

-- Ends the reservations for a target. The manager serves the queues that they have blocked.
local function end_reservations(target, project_id, runtime)
  local names = names_of_reservations(target, project_id, runtime)
  for at, stored in ipairs(call('HMGET', CONCURRENCY, unpack(names))) do
    local _, reserved_for = parse_reservation(stored)
    if reserved_for == target then
      call('HDEL', CONCURRENCY, names[at])
      wake()
    end
  end
end

-- Whether a holder is a process that runs asynchronous executions. Their leases have a limit of their own, so that some
-- workers are left for calls whose callers wait.
local function is_asynchronous(holder)
  return string.sub(holder, 1, 7) == 'worker:'
end

-- The leases for asynchronous executions: how many there are in all, of a project and of a function, and how many there
-- may be in all.
local function read_asynchronous(target, project_id)
  local is = call('HMGET', CONCURRENCY, 'asynchronous', 'asynchronous project ' .. project_id,
    'asynchronous function ' .. function_of(target), 'limit asynchronous')
  return {
    all = tonumber(is[1]) or 0, project = tonumber(is[2]) or 0, ['function'] = tonumber(is[3]) or 0,
    limit = tonumber(is[4]) or UNLIMITED,
  }
end

-- Whether leases for asynchronous executions exceed a limit. As with the places of drains (see places.py), a project
-- has at most three times as many leases as are free, and a function at most as many as its project may still get. So
-- there is a free one for another project and function. One lease is allowed to each, as long as there is a free one.
local function exceeds_asynchronous(count)
  local of_project = 3 * (count.limit - count.all)
  local of_function = of_project - count.project
  return count.all > count.limit or count.project > math.max(1, of_project)
    or count['function'] > math.max(1, of_function)
end

-- The same after one more lease.
local function exceeds_with_one_more(count)
  return exceeds_asynchronous{
    all = count.all + 1, project = count.project + 1, ['function'] = count['function'] + 1, limit = count.limit,
  }
end

local function count_leases(counts, by, target, project_id, runtime, holder)
  counts.versions, counts.functions = counts.versions + by, counts.functions + by
  counts.projects, counts.runtimes = counts.projects + by, counts.runtimes + by
  call('HSET', CONCURRENCY, 'version ' .. version_of(target), counts.versions, 'function ' .. function_of(target),
    counts.functions, 'project ' .. project_id, counts.projects, 'runtime ' .. runtime, counts.runtimes)
  if is_asynchronous(holder) then
    call('HINCRBY', CONCURRENCY, 'asynchronous', by)
    call('HINCRBY', CONCURRENCY, 'asynchronous project ' .. project_id, by)
    call('HINCRBY', CONCURRENCY, 'asynchronous function ' .. function_of(target), by)
  end
end

-- The kinds of fields in `concurrency` that are counts of leases.
local COUNTED = {version = true, ['function'] = true, project = true, runtime = true, asynchronous = true}

-- Counts all leases anew. The counts are wrong if a process of a release that counts otherwise has begun or ended a
-- lease, and a script that adds to a wrong count leaves it wrong.
local function recount()
  local found = {}
  local function add(field) found[field] = (found[field] or 0) + 1 end
  for _, worker in ipairs(call('ZRANGE', LEASES, 0, -1)) do
    local is = call('HMGET', record(worker), 'target', 'project', 'runtime', 'holder')
    add('version ' .. version_of(is[1]))
    add('function ' .. function_of(is[1]))
    add('project ' .. is[2])
    add('runtime ' .. is[3])
    if is_asynchronous(is[4]) then
      add('asynchronous')
      add('asynchronous project ' .. is[2])
      add('asynchronous function ' .. function_of(is[1]))
    end
  end
  local stored = call('HGETALL', CONCURRENCY)
  for at = 1, #stored, 2 do
    local field = stored[at]
    if COUNTED[string.match(field, '^%a+')] then
      local count = text(found[field] or 0)
      if stored[at + 1] ~= count then call('HSET', CONCURRENCY, field, count) end
      found[field] = nil
    end
  end
  for field, count in pairs(found) do call('HSET', CONCURRENCY, field, text(count)) end
end
