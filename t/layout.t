# An nginx whose pools differ from its headers: they have one more field at the end. The module was built
# with the headers, so nginx loads it.
use File::Temp;
use FindBin;
use Test::More;

# Builds the executable from the tree of the tested nginx, with one file compiled again.
my $folder;

BEGIN {
    my $tree = $ENV{NGINX_SOURCE_DIR} // '';
    plan(skip_all => 'this nginx was not built here') unless -e "$tree/objs/src/core/ngx_palloc.o";
    $folder = File::Temp->newdir('memstat-XXXXXX', TMPDIR => 1);
    my $header = "$folder/tree/src/core/ngx_palloc.h";
    system(<<"END") == 0 or die "cannot build another nginx\n";
set -e
chmod 0755 '$folder'
cp -a '$tree' '$folder/tree'
cd '$folder/tree'
cp -p '$header' '$folder/times'
sed -i 's/^    ngx_log_t            \\*log;/&\\n    void *more;/' '$header'
grep -q 'void \\*more;' '$header'
touch -r '$folder/times' '$header'
touch src/core/ngx_palloc.c
make >'$folder/build.log' 2>&1
END
    $ENV{TEST_NGINX_BINARY} = "$folder/tree/objs/nginx";
}

use lib "$FindBin::Bin/lib";
use Test::Memstat;

run_tests();

__DATA__

=== TEST 1: its pools are not hooked
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- perl
my $reason = q{nginx's structures differ from those that the module was built for};
my $reply = $t->memstat;
for my $process (process_with($reply, kind => 'worker')) {
    is $process->{pools}, undef, 'no pools';
    is $process->{allocator}{pools}, undef, 'nor their share of the heap';
    is $process->{hooks}{pool}, "off: $reason", 'why';
    ok $process->{breakdown}, 'the rest is there';
}
is $t->get('/empty')->{status}, 204, 'and nginx serves' for 1 .. 20;
is scalar(() = $t->error_log =~ /no hook on nginx's pools: \Q$reason\E/g), 1, 'said once';
