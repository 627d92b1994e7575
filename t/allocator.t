# The system allocator: its name, its figures, and the memory that a test allocates.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use constant MB => 1048576;

# Lua code that allocates from the current allocator and reads glibc's own statistics.
our $LUA = <<'END';
init_by_lua_block {
    local ffi = require "ffi"
    ffi.cdef [[
        void *malloc(size_t);
        void free(void *);
        void *memset(void *, int, size_t);
        typedef struct {
            size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
        } mallinfo2_t;
        mallinfo2_t mallinfo2(void);
        typedef struct _IO_FILE FILE;
        FILE *open_memstream(char **, size_t *);
        int malloc_info(int, FILE *);
        int fclose(FILE *);
        const char *tc_version(int *, int *, const char **);
        int mi_version(void);
        int mallctl(const char *, void *, size_t *, void *, size_t);
    ]]
    blocks = { count = 0 }

    function take(count, size)
        blocks = { count = count, at = ffi.new("void *[?]", count) }
        for i = 0, count - 1 do
            blocks.at[i] = ffi.C.memset(ffi.C.malloc(size), 1, size)
        end
    end

    function drop(from, step)
        for i = from, blocks.count - 1, step do
            ffi.C.free(blocks.at[i])
        end
    end

    function jemalloc_version()
        local text, size = ffi.new("const char *[1]"), ffi.new("size_t[1]", 8)
        assert(ffi.C.mallctl("version", text, size, nil, 0) == 0)
        return ffi.string(text[0])
    end

    function mallinfo()
        local info = ffi.C.mallinfo2()
        local text, size = ffi.new("char *[1]"), ffi.new("size_t[1]")
        local file = ffi.C.open_memstream(text, size)
        ffi.C.malloc_info(0, file)
        ffi.C.fclose(file)
        local _, arenas = ffi.string(text[0], size[0]):gsub("<heap nr=", "")
        ffi.C.free(text[0])
        return string.format("reserved %d in_use %d free %d mmapped %d arenas %d",
            tonumber(info.arena + info.hblkhd), tonumber(info.uordblks + info.hblkhd),
            tonumber(info.fordblks), tonumber(info.hblkhd), arenas)
    end
}
END

sub allocator { my ($t, $path) = @_; return process_of($t->fresh($path), ($t->workers)[0])->{allocator} }

# Calls a Lua function in the worker. Returns its result.
sub lua {
    my ($t, $call) = @_;
    my $answer = $t->get("/lua?$call");
    $answer->{status} == 200 or die "$call: $answer->{status}\n" . $t->error_log;
    return $answer->{body};
}

# Compares glibc's figures with an independent reading in the same process.
sub check_mallinfo {
    my ($t, $when, $path) = @_;
    my %before = split ' ', lua($t, 'mallinfo()');
    my $said   = allocator($t, $path);
    my %after  = split ' ', lua($t, 'mallinfo()');
    for my $figure (sort keys %before) {
        my ($low, $high) = sort { $a <=> $b } $before{$figure}, $after{$figure};
        my $slack = $figure eq 'arenas' ? 0 : 65536 + 0.02 * $high;
        ok defined $said->{$figure} && $said->{$figure} >= $low - $slack
            && $said->{$figure} <= $high + $slack, "$when: $figure"
            or diag "got $said->{$figure}, mallinfo2: $before{$figure}, then $after{$figure}";
    }
    return $said;
}

# Allocates 50 MB from a preloaded allocator, and checks its figures.
sub check_preloaded {
    my ($t, $name, $figures) = @_;
    my ($worker) = $t->workers;
    my $check = sub {
        my $process   = process_of($t->fresh, $worker);
        my $breakdown = $process->{breakdown};
        is $process->{allocator}{name}, $name, "$name: its name";
        ok $breakdown->{$name}, "$name: in the breakdown";
        ok !exists $breakdown->{$_}, "$name: no $_"
            for grep { $_ ne $name } qw(glibc_heap jemalloc tcmalloc mimalloc musl_heap);
        adds_up($process, $name);
        return $process;
    };
    my $before = $check->();
    lua($t, 'take(800,65536)');
    my $after = $check->();
    # Memory that cannot be attributed to the allocator is in anon_other.
    my ($known) = grep { defined $after->{breakdown}{$_}{resident} } $name, 'anon_other';
    near $after->{breakdown}{$known}{resident} - $before->{breakdown}{$known}{resident}, 50 * MB, 5 * MB,
        "$name: $known rises by what was taken";
    near $after->{breakdown}{anon_other}{resident}, $before->{breakdown}{anon_other}{resident}, 2 * MB,
        "$name: what is left over does not" if $known eq $name;
    is $known, $name, "$name: resident is known" if @$figures > 1;
    for my $figure (@$figures) {
        isnt $after->{allocator}{$figure}, undef, "$name: $figure is known";
    }
    near $after->{allocator}{in_use} - $before->{allocator}{in_use}, 50 * MB, 5 * MB,
        "$name: in_use rises" if defined $after->{allocator}{in_use};
    cmp_ok $after->{allocator}{reserved}, '>=', 50 * MB, "$name: reserved"
        if defined $after->{allocator}{reserved};
    isnt "@{ $after->{notes} }", '', "$name: a note says why a figure is not known"
        if grep { !defined $after->{allocator}{$_} } qw(reserved in_use free);

    lua($t, 'drop(0,1)');
    my $dropped = $check->();
    near $dropped->{allocator}{in_use}, $before->{allocator}{in_use}, 5 * MB, "$name: in_use falls"
        if defined $dropped->{allocator}{in_use};
    return $after;
}

# The blocks share this Lua code and these locations.
sub with_lua { return ($_[0] // '') . $LUA }

my $CONFIG = <<'END';
location /memstat { memstat; }
location /lua {
    content_by_lua_block { ngx.print(loadstring("return " .. ngx.unescape_uri(ngx.var.args))() or "") }
}
END
sub common { return ($_[0] // '') . $CONFIG }

run_tests();

__DATA__

=== TEST 1: glibc by name and figures
--- http_config with_lua
--- config common
--- perl
my ($version) = `getconf GNU_LIBC_VERSION` =~ /^glibc (\S+)/;
my $said = check_mallinfo($t, 'idle');
is $said->{name}, 'glibc', 'name';
is $said->{version}, $version, 'version';

=== TEST 2: arenas of threads
--- main_config
thread_pool default threads=6;
--- http_config with_lua
--- config common
location /file { sendfile off; aio threads; output_buffers 1 64k; alias html/file; }
--- user_files
>>> file
some text
--- perl
$t->get('/file') for 1 .. 30;
check_mallinfo($t, 'with threads');

=== TEST 3: 50 MB in small blocks
--- http_config with_lua
--- config common
--- perl
my ($worker) = $t->workers;
my $before = process_of($t->fresh, $worker);
lua($t, 'take(800,65536)');
my $after = process_of($t->fresh, $worker);
near $after->{allocator}{in_use} - $before->{allocator}{in_use}, 50 * MB, MB, 'in_use rises';
near $after->{allocator}{reserved} - $before->{allocator}{reserved}, 50 * MB, MB, 'reserved rises';
near $after->{breakdown}{glibc_heap}{$_} - $before->{breakdown}{glibc_heap}{$_}, 50 * MB, MB,
    "glibc_heap.$_ rises" for qw(resident reserved);
near $after->{breakdown}{anon_other}{resident}, $before->{breakdown}{anon_other}{resident}, MB / 4,
    'what is left over does not';
check_mallinfo($t, 'taken');

lua($t, 'drop(0,2)');
my $half = check_mallinfo($t, 'every other one freed');
near $half->{free} - $after->{allocator}{free}, 25 * MB, MB, 'free rises';
near $half->{in_use}, $after->{allocator}{in_use} - 25 * MB, MB, 'in_use falls';
is $half->{reserved} > $after->{allocator}{reserved} - MB, 1, 'reserved stays';
lua($t, 'drop(1,2)');
my $freed = check_mallinfo($t, 'all freed');
near $freed->{in_use}, $before->{allocator}{in_use}, MB, 'in_use is back';

=== TEST 4: blocks with a mapping of their own
--- http_config with_lua
--- config common
--- perl
my ($worker) = $t->workers;
my $before = process_of($t->fresh, $worker);
lua($t, 'take(20,1048576)');
my $after = process_of($t->fresh, $worker);
my $bytes = 20 * (MB + page_size());
near $after->{allocator}{$_} - $before->{allocator}{$_}, $bytes, 65536, "$_ rises"
    for qw(mmapped in_use reserved);
near $after->{allocator}{free}, $before->{allocator}{free}, 131072, 'free does not';
near $after->{breakdown}{glibc_heap}{$_} - $before->{breakdown}{glibc_heap}{$_}, $bytes, MB / 4,
    "glibc_heap.$_ rises" for qw(resident reserved);
near $after->{breakdown}{anon_other}{resident}, $before->{breakdown}{anon_other}{resident}, MB / 4,
    'what is left over does not';
check_mallinfo($t, 'taken');

lua($t, 'drop(0,1)');
my $freed = process_of($t->fresh, $worker);
near $freed->{allocator}{mmapped}, $before->{allocator}{mmapped}, 65536, 'mmapped is back';
near $freed->{breakdown}{glibc_heap}{resident}, $before->{breakdown}{glibc_heap}{resident}, MB / 2,
    'so is glibc_heap';

=== TEST 5: a million free chunks do not hold up the event loop
--- main_config
worker_processes 2;
--- http_config with_lua
--- config common
location /pid { content_by_lua_block { ngx.say(ngx.worker.pid()) } }
location /many {
    content_by_lua_block {
        take(2000000, 64)
        drop(0, 2)
        ngx.say(ngx.worker.pid())
    }
}
location /more {
    content_by_lua_block {
        ngx.say(ngx.worker.pid())
        if ngx.worker.pid() == tonumber(ngx.var.args) then
            for i = 1, 400 do require("ffi").C.malloc(52428) end
        end
    }
}
location /own { content_by_lua_block { ngx.say(ngx.worker.pid(), " ", mallinfo()) } }
--- perl
$t->fresh;
my ($burdened) = $t->get('/many')->{body} =~ /^(\d+)/;
for my $nth (1 .. 4) {
    my $process = process_of($t->fresh, $burdened);
    is $process->{state}, 'active', "answer $nth: it answers";
    my $allocator = $process->{allocator};
    if (defined $allocator->{in_use}) {
        isnt $allocator->{measured_ms_ago}, undef, "answer $nth: its figures say their age";
    }
    else {
        isnt "@{ $process->{notes} }", '', "answer $nth: a note says why there are no figures";
    }
    isnt $process->{self}{longest_slice_us}, undef, "answer $nth: what it cost";
    cmp_ok $process->{breakdown}{glibc_heap}{resident}, '>=', 150 * MB, "answer $nth: glibc_heap";
}

# With refresh=heap the figures are fresh: they include the last allocation.
my $before = process_of($t->fresh('/memstat?refresh=heap'), $burdened);
$t->get_from($burdened, "/more?$burdened");
my $process = process_of($t->fresh('/memstat?refresh=heap'), $burdened);
near $process->{allocator}{in_use} - $before->{allocator}{in_use}, 20 * MB, 2 * MB, 'refreshed: what was taken last';
my $own = $t->get_from($burdened, '/own')->{body} =~ s/^\d+ //r;
my %own = split ' ', $own;
near $process->{allocator}{$_}, $own{$_}, 65536 + 0.02 * $own{$_}, "refreshed: $_" for qw(in_use free reserved);

=== TEST 6: jemalloc
--- env
LD_PRELOAD=libjemalloc.so.2
--- http_config with_lua
--- config common
--- perl
my $said = check_preloaded($t, 'jemalloc', [qw(reserved in_use free arenas)]);
my $version = lua($t, 'jemalloc_version()');
is index($version, $said->{allocator}{version}), 0, "version: $version";
cmp_ok length $said->{allocator}{version}, '>=', 5, 'in full';

=== TEST 7: tcmalloc
--- env
LD_PRELOAD=libtcmalloc_minimal.so.4
--- http_config with_lua
--- config common
--- perl
my $said = check_preloaded($t, 'tcmalloc', [qw(reserved in_use free)]);
my $version = lua($t, 'require("ffi").string(require("ffi").C.tc_version(nil,nil,nil))');
is index($version, $said->{allocator}{version}), length('gperftools '), "version: $version";

=== TEST 8: mimalloc
--- env
LD_PRELOAD=libmimalloc.so.2
--- http_config with_lua
--- config common
--- perl
my $said = check_preloaded($t, 'mimalloc', ['reserved']);
isnt $said->{breakdown}{mimalloc}{resident}, undef, 'where its memory is, is known';
my $version = lua($t, 'require("ffi").C.mi_version()');
is $said->{allocator}{version} =~ s/\.//gr, $version, "version: $version";

=== TEST 9: figures are of the worker, not of the server
--- main_config
worker_processes 2;
--- http_config with_lua
--- config common
location /take { content_by_lua_block { take(160, 65536) ngx.say(ngx.worker.pid()) } }
--- perl
my $before = $t->fresh;
my ($taker) = $t->get('/take')->{body} =~ /^(\d+)/;
my ($other) = grep { $_ != $taker } $t->workers;
my $after = $t->fresh;
my $rise = sub { process_of($after, $_[0])->{allocator}{in_use} - process_of($before, $_[0])->{allocator}{in_use} };
near $rise->($taker), 10 * MB, MB / 2, 'the one that takes';
near $rise->($other), 0, MB / 2, 'the other';

=== TEST 10: 200,000 free chunks, on a worker that allocates and frees
--- http_config with_lua
--- config common
location /churn {
    content_by_lua_block {
        local C, held = require("ffi").C, {}
        for i = 1, 300 do
            held[i] = C.malloc(math.random(24, 9000))
            if math.random() < 0.5 then C.free(table.remove(held, math.random(#held))) held[i] = C.malloc(40) end
        end
        for i = 1, #held do C.free(held[i]) end
        ngx.print("ok")
    }
}
location /hold {
    content_by_lua_block {
        local C = require("ffi").C
        held = held or {}
        for i = 1, 400 do held[#held + 1] = C.memset(C.malloc(50000), 1, 50000) end
        ngx.print("ok")
    }
}
--- perl
lua($t, 'take(400000,1100)');
lua($t, 'drop(0,2)');
my ($worker) = $t->workers;
my $churn = $t->connect;

# Returns the allocator's figures while the worker allocates and frees. They must be consistent.
my $ask = sub {
    $churn->send(GET => '/churn') for 1 .. 30;
    my $process = process_of($t->fresh, $worker);
    $churn->receive for 1 .. 30;
    my $said = $process->{allocator};
    $said->{age} = $said->{measured_ms_ago} + $process->{age_ms};
    is $said->{in_use} + $said->{free}, $said->{reserved}, 'they add up';
    return $said;
};

# Waits for figures that were measured after this call.
my $renewed = sub {
    my $begun = milliseconds();
    return $t->wait_for('the figures are renewed', sub {
        my $said = $ask->();
        # The whole count must be after this call, not only its end.
        return $said->{age} + $said->{measured_over_ms} < milliseconds() - $begun - 50 ? $said : undef;
    });
};

my $before = $renewed->();
cmp_ok $before->{free}, '>', 200_000 * 1100, 'free chunks are counted';
cmp_ok $before->{measured_over_ms}, '>', 0, 'not in one go';
for my $round (1 .. 3) {
    is $t->get('/hold')->{body}, 'ok', "round $round: 20 MB are taken";
    my $after = $renewed->();
    near $after->{in_use} - $before->{in_use}, 400 * 50016, MB, "round $round: in_use rises by that";
    near $after->{free}, $before->{free}, MB, "round $round: free does not";
    $before = $after;
}
my %own = split ' ', lua($t, 'mallinfo()');
near $before->{$_}, $own{$_}, MB, "mallinfo2: $_" for qw(in_use free reserved);

# The metrics have the same figures, and their age.
my $metrics = $t->get('/memstat?format=prometheus')->{body};
my %metric  = map { $_ => $metrics =~ /^nginx_memstat_allocator_$_\{[^}]*\} (\S+)/m }
    qw(in_use_bytes free_bytes reserved_bytes figures_age_seconds);
is $metric{in_use_bytes} + $metric{free_bytes}, $metric{reserved_bytes}, 'metrics add up';
like $metric{figures_age_seconds}, qr/^\d+(?:\.\d+)?$/, 'and tell their age';

=== TEST 11: nginx's own arrays
--- main_config
events { worker_connections 1000; }
--- config
location /memstat { memstat; }
--- perl
my %sizes;
for my $connections (1000, 51000) {
    $t->reload(main_config => "events { worker_connections $connections; }")->old_gone if $connections > 1000;
    my ($worker) = $t->workers;
    my $reply = $t->fresh('/memstat?refresh=heap');
    $sizes{$connections} = process_of($reply, $worker)->{allocator};
    is_deeply process_of($reply, $t->master)->{allocator}{nginx}, {}, 'the master has none';
    is_deeply [ sort keys %{ $sizes{$connections}{nginx} } ], [qw(connections read_events write_events)], 'a worker has';
}
my ($few, $many) = @sizes{ 1000, 51000 };
is $many->{nginx}{$_}, 51 * $few->{nginx}{$_}, "$_: by worker_connections" for qw(connections read_events write_events);
near $many->{in_use} - $few->{in_use}, sum(map { $many->{nginx}{$_} - $few->{nginx}{$_} } keys %{ $many->{nginx} }), 65536,
    'malloc counts them';
